#!/usr/bin/env bash
# What the browser tests need: Debian's chromium, and axe-core, which finds problems of accessibility.
# Run as `.ci/browser.sh DIR`; axe.min.js is put into DIR. Whatever cannot be had is said, and its tests are skipped.
set -uo pipefail
directory=$1
axe_version=4.14.1
axe_sha256=29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c
mkdir -p "$directory"

if ! command -v chromium >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    log=$directory/apt.log
    if apt-get update -qq >"$log" 2>&1 &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-liberation >>"$log" 2>&1
    then
      echo "installed $(chromium --version 2>/dev/null)"
    else
      echo "chromium could not be installed (its tests are skipped): $(tail -n 1 "$log")"
    fi
  else
    echo "chromium is not here, and only root can install it: its tests are skipped"
  fi
fi

if command -v npm >/dev/null; then
  if (cd "$directory" && npm pack --silent "axe-core@$axe_version" >/dev/null 2>npm.log) &&
    tar -xzf "$directory/axe-core-$axe_version.tgz" -C "$directory" --strip-components=1 package/axe.min.js &&
    echo "$axe_sha256  $directory/axe.min.js" | sha256sum --check --quiet
  then
    echo "fetched axe-core $axe_version"
  else
    rm -f "$directory/axe.min.js"
    echo "axe-core $axe_version could not be fetched (its tests are skipped): $(tail -n 1 "$directory/npm.log")"
  fi
else
  echo "npm is not here to fetch axe-core: its tests are skipped"
fi
