"""
What the package needs of other libraries beyond what they document: a table of every such name with its reason (`names.py`), and one
file a library for what is read through a function. Imports nothing of the package, and each file its own library alone.
"""
