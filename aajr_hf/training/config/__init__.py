"""Fields of the configurations and their validation, and recipes as files. Imports nothing of ours."""
