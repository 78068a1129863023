"""
What pyproject.toml cannot say: the folders accelerate_configs/ and recipes/ stand at the top of the repository, and are
installed inside the package, where `aajr train --accelerate_config NAME --config NAME` finds what they hold.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["aajr_hf*"]), "aajr_hf.accelerate_configs", "aajr_hf.recipes"],
    package_dir={"aajr_hf.accelerate_configs": "accelerate_configs", "aajr_hf.recipes": "recipes"},
)
