# Sourced by the other scripts: functions that install what they need.

# install_into VENV EXTRA: editable install of the package with an extra, at the versions of constraints.txt.
# torch goes first and alone, so that no other request can pull another build of it.
install_into() {
  local venv="$1" extra="$2" stamp
  [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
  stamp="$venv/.installed-$extra-$(cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)"
  [ -e "$stamp" ] && return
  local pip=("$venv/bin/python" -m pip install -qq)
  "${pip[@]}" --upgrade "pip>=24"
  "${pip[@]}" "$(grep '^torch==' constraints.txt)"
  "${pip[@]}" -c constraints.txt -e ".[$extra]"
  # TensorRT's headers, for the plugins. The package asks for triton and a torch of its own, which the headers do not need.
  [ "$extra" != dev ] || "${pip[@]}" --no-deps "$(grep '^kernel-lens==' constraints.txt)"
  touch "$stamp"
}

# install_programs PACKAGES PROGRAM...: Debian packages (names in one word), unless all programs are there.
install_programs() {
  local packages="$1" program sudo
  shift
  for program in "$@"; do
    command -v "$program" >/dev/null && continue
    sudo="$([ "$(id -u)" = 0 ] || echo sudo)"
    $sudo apt-get update -qq
    # shellcheck disable=SC2086
    $sudo apt-get install -y -qq --no-install-recommends $packages >/dev/null
    return
  done
}
