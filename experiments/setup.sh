#!/usr/bin/env bash
# Find or make the Python environment.
#
#     bash experiments/setup.sh                  make it ahead of time
#     source experiments/setup.sh                in a script, then:
#     use_environment [PACKAGE ...]              sets and exports PYTHON; PACKAGEs are needed beside those to run
#
# Tried in this order: $PYTHON, the active venv or conda environment, .venv in the repository. The first two are used
# as they are when every package of the group "run" of requirements.txt can be imported, whatever its version (the torch
# of a cluster, for example); of torchvision it is enough that it is installed. Else .venv is made, with the pinned
# versions of all groups.

REPOSITORY=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$REPOSITORY/.venv
STAMP=$VENV/.requirements # written last: its absence means an interrupted installation
OURS=$VENV/.made_by_setup # its presence means that .venv may be made anew; one made by hand is only added to

setup_error() {
    echo "error: $*" >&2
    exit 2
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo "not a working Python"; }

run_packages() { sed -n '/^# test/q; s/^\([A-Za-z0-9_.-]*\)==.*/\1/p' "$REPOSITORY/requirements.txt"; }

# Tell what an environment has; fails, with what it lacks, when it cannot be used.
describe_environment() {
    # -P: a folder ./wandb of the caller is not the package
    "$1" -P - "$REPOSITORY/requirements.txt" "${@:2}" <<'PY'
import importlib, platform, re, sys
from importlib import metadata
from pathlib import Path

pins = dict(re.findall(r"^([\w.-]+)==(\S+)", Path(sys.argv[1]).read_text(), re.M))
lacking, other = [], []
for name in sys.argv[2:]:
    try:
        # Beside a torch for CPUs the import of torchvision fails; CNN/cnn/vision.py, its only user, helps it.
        if name != "torchvision":
            importlib.import_module(name.removeprefix("pytest-").removesuffix("-for-pytorch"))
        found = metadata.version(name)
    except ModuleNotFoundError as error:
        lacking.append(name if error.name == name else f"{name} (its {error.name} is missing)")
    except Exception as error:
        lacking.append(f"{name} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})")
    else:
        if found.partition("+")[0] != pins.get(name, found):
            other.append(f"{name} {found} (pinned: {pins[name]})")
if lacking:
    sys.exit("lacks " + ", ".join(lacking))
print(", ".join([f"Python {platform.python_version()}", *other]))
PY
}

# Set PYTHON to an environment that is ready; fails when .venv has to be made first.
choose_python() {
    local python="" what found
    local -a needed
    if [[ -n ${PYTHON:-} ]]; then
        what="PYTHON=$PYTHON"
        python=$(command -v -- "$PYTHON") || setup_error "$what: no such program"
        [[ $python == /* ]] || python=$PWD/$python
        is_recent "$python" || setup_error "$what: Python 3.11 or newer is needed, this is $(version_of "$python")"
    elif [[ -n ${VIRTUAL_ENV:-} && ! $VIRTUAL_ENV -ef $VENV ]]; then
        what="the active environment $VIRTUAL_ENV" python=$VIRTUAL_ENV/bin/python
    elif [[ -n ${CONDA_PREFIX:-} ]]; then
        what="the active conda environment $CONDA_PREFIX" python=$CONDA_PREFIX/bin/python
    fi
    # The folders are compared: interpreters of two environments are often links to one file.
    if [[ -n $python && ! ${python%/*} -ef $VENV/bin || -n $python && ! -e $STAMP ]]; then
        mapfile -t needed < <(run_packages)
        needed+=("$@")
        # Scripts call each other; importing torch once is enough.
        if [[ ${CHECKED_PYTHON:-} == "$python ${needed[*]}" ]]; then
            PYTHON=$python
            return
        elif ! is_recent "$python"; then
            echo "$what is not used: Python 3.11 or newer is needed, this is $(version_of "$python")" >&2
        elif found=$(describe_environment "$python" "${needed[@]}" 2>&1); then
            echo "using $python: $found" >&2
            PYTHON=$python
            export CHECKED_PYTHON="$python ${needed[*]}"
            return
        else
            echo "$what is not used, it ${found##*$'\n'}: using .venv" >&2
        fi
    fi
    venv_is_ready && PYTHON=$VENV/bin/python
}

requirements_hash() { sha256sum <"$REPOSITORY/requirements.txt"; }

venv_is_ready() {
    [[ -e $STAMP && $(<"$STAMP") == "$(requirements_hash)" ]] && "$VENV/bin/python" -c '' 2>/dev/null
}

# The Python to make .venv with.
base_python() {
    local name
    for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if command -v -- "$name" >/dev/null && is_recent "$name"; then
            command -v -- "$name"
            return
        fi
    done
    setup_error "Python 3.11 or newer is needed; found $(version_of python3) as python3. Install it, or set PYTHON"
}

make_venv() {
    local base lock
    base=$(base_python) || exit 2
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        setup_error "$base cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv"
    # Two scripts started together must not install into one folder.
    mkdir -p "$VENV"
    exec {lock}>>"$VENV/.setup.lock"
    if command -v flock >/dev/null && ! flock -n "$lock"; then
        echo "another process is making $VENV, waiting for it" >&2
        flock "$lock"
    fi
    if ! venv_is_ready; then
        if [[ -e $OURS && ! -e $STAMP ]] || ! "$VENV/bin/python" -c '' 2>/dev/null; then
            find "$VENV" -mindepth 1 -maxdepth 1 ! -name .setup.lock -exec rm -rf -- {} +
            touch "$OURS"
            echo "making $VENV ($("$base" --version))" >&2
            "$base" -m venv "$VENV" || setup_error "$base -m venv $VENV failed"
        fi
        rm -f "$STAMP"
        echo "installing requirements.txt into $VENV" >&2
        "$VENV/bin/python" -m pip install --disable-pip-version-check -r "$REPOSITORY/requirements.txt" >&2 ||
            setup_error "the installation failed, see above; the next call tries again"
        requirements_hash >"$STAMP"
    fi
    exec {lock}>&-
    PYTHON=$VENV/bin/python
}

use_environment() {
    choose_python "$@" || make_venv
    export PYTHON
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    set -euo pipefail
    use_environment "$@"
    echo "ready: $PYTHON"
fi
