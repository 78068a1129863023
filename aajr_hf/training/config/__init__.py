"""Fields of the configurations and their validation, and recipes as files. Imports only `_compat` from the package."""
