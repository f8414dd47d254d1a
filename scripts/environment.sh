# Sourced by the other scripts: one function that makes a virtual environment and installs the package into it.

# install_into VENV EXTRA: editable install of the package with an extra, at the versions of constraints.txt.
# torch goes first and alone, so that no other request can pull another build of it.
install_into() {
  local venv="$1" extra="$2" stamp
  [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
  stamp="$venv/.installed-$extra-$(cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)"
  [ -e "$stamp" ] && return
  "$venv/bin/python" -m pip install --quiet --quiet --upgrade "pip>=24"
  "$venv/bin/python" -m pip install --quiet --quiet "$(grep '^torch==' constraints.txt)"
  "$venv/bin/python" -m pip install --quiet --quiet -c constraints.txt -e ".[$extra]"
  # TensorRT's headers, for the plugins. The package asks for triton and a torch of its own, which the headers do not need.
  [ "$extra" != dev ] || "$venv/bin/python" -m pip install --quiet --quiet --no-deps "$(grep '^kernel-lens==' constraints.txt)"
  touch "$stamp"
}
