"""
What the package needs of other libraries beyond their public API, or differently in different releases: a table of all
such names with their reasons (`names.py`), and functions around some of them, in a file for each library. The other
names are used where they are needed: the table says in which files. This folder imports nothing else from the package,
and each file imports only its own library and libraries below it.
"""
