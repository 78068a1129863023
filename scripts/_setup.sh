# Makes .venv with the package and its tested dependencies. Sourced by the scripts beside it, not run.
#
# Takes:  EXTRA   the extra of pyproject.toml to install ("dev" or "test"); empty for the package alone
#         PYTHON  the Python to make .venv with, 3.11 or newer (default: python3.11, else python3)
# Leaves: the current directory at the repository's root, and .venv ready to use.
#
# Safe to run again: nothing is installed while pyproject.toml and constraints.txt stay as they are.

_fail() {
    echo "error: $*" >&2
    exit 2
}

# Whether "$1" runs and is Python 3.11 or newer.
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
        _fail "needs Python 3.11 or newer, tried: ${candidates[*]} (set PYTHON to one)"
    fi
    version="$("$python" -c 'import platform; print(platform.python_version())')"
    echo "Creating .venv with Python $version ..."
    if ! "$python" -m venv --clear .venv; then
        rm -rf .venv
        _fail "$python could not make .venv (on Debian and Ubuntu it needs the package python3-venv)"
    fi
}

# What an installation depends on: the two files, and where the checkout lies, as the package is installed in place.
_fingerprint() {
    .venv/bin/python - <<'PY'
import hashlib
import os

digest = hashlib.sha256(os.getcwdb())
for name in ("pyproject.toml", "constraints.txt"):
    with open(name, "rb") as file:
        digest.update(file.read())
print(digest.hexdigest())
PY
}

# Whether "$1", an extra, is installed as of the fingerprint "$2".
_is_installed() {
    [[ "$(cat ".venv/.aajr-installed-${1:-base}" 2>/dev/null)" == "$2" ]]
}

_install() {
    local extra="$1" torch fingerprint target="." pip=(.venv/bin/python -m pip)
    fingerprint="$(_fingerprint)"
    # "dev" holds all that the other extras do.
    if _is_installed "$extra" "$fingerprint" || _is_installed dev "$fingerprint"; then
        return
    fi
    if [[ -n "$extra" ]]; then
        target=".[$extra]"
    fi
    torch="$(sed -n 's/^\(torch==[0-9A-Za-z.]*\).*/\1/p' constraints.txt)"
    if [[ -z "$torch" ]]; then
        _fail "constraints.txt fixes no version of torch"
    fi
    echo "Installing (a few minutes the first time) ..."
    # torch comes first and by its exact version, so that no later step can choose another build of it.
    "${pip[@]}" install --quiet --disable-pip-version-check -c constraints.txt "$torch"
    "${pip[@]}" install --quiet --disable-pip-version-check -c constraints.txt -e "$target"
    echo "$fingerprint" >".venv/.aajr-installed-${extra:-base}"
}

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
if [[ ! -e .venv ]]; then
    _make_venv
elif ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "Repairing .venv: its Python or pip does not run."
    _make_venv
elif ! _is_recent_python .venv/bin/python; then
    _fail ".venv has a Python older than 3.11; remove it and run this again"
fi
_install "${EXTRA:-}"
