"""
What pyproject.toml cannot say: the folder accelerate_configs/ stands at the top of the repository, and is installed inside
the package, where `aajr train --accelerate_config NAME` finds it.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["aajr_hf*"]), "aajr_hf.accelerate_configs"],
    package_dir={"aajr_hf.accelerate_configs": "accelerate_configs"},
)
