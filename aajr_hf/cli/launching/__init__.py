"""`aajr train` on several processes."""
