"""Each performance claim of Bursar as a program, its peer beside it."""
