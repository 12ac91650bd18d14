"""What sign-in does at night."""
