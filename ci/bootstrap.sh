#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes .venv with kafkaproc built in place: ci/bootstrap.sh [demo|dev|test]
#
# demo, dev   need Python 3.11 with headers, a C compiler and make.
# test        needs Java 17 or newer and Maven too, for Apache Kafka, and C++ and git for the tests themselves.
#
# What is missing is installed where that needs no question (root on Debian and its kin); elsewhere it is named together
# with the command that installs it. Run again, it does only what has changed since.
set -eu
cd "$(dirname "$0")/.."

purpose=${1:-dev}
case $purpose in
demo | dev | test) ;;
*)
    echo "usage: ci/bootstrap.sh [demo|dev|test]" >&2
    exit 2
    ;;
esac

fail() {
    echo "kafkaproc: $*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

python_is_new() { "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# The first that is new enough; else plain python3, which is then named as missing.
for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11} python3; do
    if python_is_new; then break; fi
done

python_has_headers() {
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

java_is_new() {
    has java || return 1
    # The first number of `openjdk version "17.0.9"`; "1.8.0" gives 1.
    major=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
    [ "${major:-0}" -ge 17 ]
}

newest_java_package() {
    for package in openjdk-21-jdk-headless openjdk-17-jdk-headless; do
        if has apt-cache && apt-cache show "$package" >/dev/null 2>&1; then
            echo "$package"
            return
        fi
    done
    echo openjdk-17-jdk-headless
}

[ "$(uname -s)" = Linux ] || fail "runs on Linux only; this is $(uname -s)"

can_install=no
if [ "$(id -u)" = 0 ] && has apt-get; then can_install=yes; fi

missing_packages() {
    has cc || echo gcc libc6-dev
    has make || echo make
    if ! python_is_new; then
        echo python3 python3-dev python3-venv
    else
        "$python" -c 'import ensurepip' 2>/dev/null || echo python3-venv
        python_has_headers || echo python3-dev
    fi
    if [ "$purpose" = test ]; then
        has c++ || echo g++
        has git || echo git
        java_is_new || newest_java_package
        has mvn || echo maven
    fi
}

missing=$(missing_packages | tr '\n' ' ')
if [ -n "$missing" ] && [ "$can_install" = yes ]; then
    echo "kafkaproc: installing $missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # Once more with fresh lists, which may know a newer Java.
    # shellcheck disable=SC2046
    apt-get install -y -qq --no-install-recommends $(missing_packages) >/dev/null
    missing=$(missing_packages | tr '\n' ' ')
    [ -z "$missing" ] || fail "still missing after apt-get install: $missing"
fi
[ -z "$missing" ] || fail "missing: $missing
    On Debian or Ubuntu: sudo apt-get install $missing
    Elsewhere: Python 3.11 or newer with its headers, a C compiler, make$(
    [ "$purpose" = test ] && echo ', C++, git, Java 17 or newer, Maven')"

# The environment is made anew when Python changed, and its packages are installed anew when pyproject.toml did.
stamp=$("$python" -c 'import sys; print(sys.version)'; cat pyproject.toml)
same() { [ "$(cat ".venv/stamp-$1" 2>/dev/null)" = "$stamp" ]; }

if [ ! -x .venv/bin/python ] || [ "$(cat .venv/python 2>/dev/null)" != "$(echo "$stamp" | head -n 1)" ]; then
    rm -rf .venv
    "$python" -m venv .venv
    echo "$stamp" | head -n 1 >.venv/python
fi

extras=demo,test
if [ "$purpose" = demo ]; then extras=demo; fi
if same "$extras" || same demo,test; then
    .venv/bin/python setup.py --quiet build_ext --inplace
else
    echo "kafkaproc: installing Python packages and building the extensions"
    pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input "$@"; }
    pip install -q "setuptools>=77" "Cython>=3.1" wheel
    # A plain editable install hides the .pxd files from cimport; and without isolation a rebuild needs no download.
    pip install -q --no-build-isolation --config-settings editable_mode=compat -e ".[$extras]"
    echo "$stamp" >".venv/stamp-$extras"
fi
