"""Many pictures to many files: a list of rows in, a file a row and a table of results out, resumable."""
