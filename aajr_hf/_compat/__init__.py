"""
Undocumented parts of other libraries that the package needs: a table of these names with their reasons (`names.py`),
and for each library a file of functions that use them. This folder imports nothing else from the package, and each
file imports only its own library.
"""
