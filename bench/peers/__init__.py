"""What each claim of Bursar is measured against, one program a file."""
