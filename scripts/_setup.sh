# Makes an environment with the package and its tested dependencies. The other scripts source this file; do not run it.
#
# Takes:  EXTRA        the extra of pyproject.toml to install ("dev" or "test"); empty for the package alone
#         PYTHON       the Python that makes the environment, 3.11 or newer (default: python3.11, else python3)
#         VENV         the environment's folder
#         CONSTRAINTS  the file with the exact versions of packages
# Result: the current directory is the repository's root, and the environment is ready to use.
#
# You can run it again: it installs nothing while pyproject.toml and the file of versions are unchanged.

_fail() {
    echo "error: $*" >&2
    exit 2
}

# Check that "$1" runs and is Python 3.11 or newer.
_is_recent_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

_make_venv() {
    local python="" candidate candidates=(python3.11 python3) version
    if [[ -n "${PYTHON:-}" ]]; then
        candidates=("$PYTHON")
    fi
    for candidate in "${candidates[@]}"; do
        if _is_recent_python "$candidate"; then
            python="$candidate"
            break
        fi
    done
    if [[ -z "$python" ]]; then
        _fail "no Python 3.11 or newer found, tried: ${candidates[*]}: set PYTHON to one"
    fi
    version="$("$python" -c 'import platform; print(platform.python_version())')"
    echo "Creating $VENV with Python $version ..."
    if ! "$python" -m venv --clear "$VENV"; then
        rm -rf "$VENV"
        _fail "$python could not make $VENV: on Debian and Ubuntu, install the package python3-venv"
    fi
}

# Print a digest of everything that an installation depends on: the two files, and the checkout's path, because the
# package is installed in place.
_fingerprint() {
    "$VENV/bin/python" - "$CONSTRAINTS" <<'PY'
import hashlib
import os
import sys

digest = hashlib.sha256(os.getcwdb())
for name in ("pyproject.toml", sys.argv[1]):
    with open(name, "rb") as file:
        digest.update(file.read())
print(digest.hexdigest())
PY
}

# Check that the extra "$1" was installed with the fingerprint "$2".
_is_installed() {
    [[ "$(cat "$VENV/.aajr-installed-${1:-base}" 2>/dev/null)" == "$2" ]]
}

_install() {
    local extra="$1" torch fingerprint target="." pip=("$VENV/bin/python" -m pip)
    fingerprint="$(_fingerprint)"
    # "dev" contains everything that the other extras contain.
    if _is_installed "$extra" "$fingerprint" || _is_installed dev "$fingerprint"; then
        return
    fi
    if [[ -n "$extra" ]]; then
        target=".[$extra]"
    fi
    torch="$(sed -n 's/^\(torch==[0-9A-Za-z.]*\).*/\1/p' "$CONSTRAINTS")"
    if [[ -z "$torch" ]]; then
        _fail "$CONSTRAINTS does not fix a version of torch: add a line torch==VERSION"
    fi
    echo "Installing (a few minutes the first time) ..."
    # Install torch first, in its exact version, so that no later step can choose another build of it.
    "${pip[@]}" install --quiet --disable-pip-version-check -c "$CONSTRAINTS" "$torch"
    "${pip[@]}" install --quiet --disable-pip-version-check -c "$CONSTRAINTS" -e "$target"
    echo "$fingerprint" >"$VENV/.aajr-installed-${extra:-base}"
}

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
if [[ ! -e "$VENV" ]]; then
    _make_venv
elif ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "Repairing $VENV: its Python or pip does not run."
    _make_venv
elif ! _is_recent_python "$VENV/bin/python"; then
    _fail "$VENV has a Python older than 3.11: remove $VENV and run this again"
fi
_install "${EXTRA:-}"
