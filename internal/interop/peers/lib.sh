# shellcheck shell=bash
# What the scripts of this folder share.

# again COMMAND...: tries up to three times, for whatever downloads.
again() {
	local n
	for n in 1 2 3; do
		if "$@"; then return 0; fi
		echo "interop: try $n of 3 did not work: $*" >&2
		sleep $((n * 5))
	done
	return 1
}

# apt COMMAND...: apt-get that asks nothing, and is silent unless it fails.
apt() {
	local log rc=0
	log=$(mktemp)
	DEBIAN_FRONTEND=noninteractive again apt-get -y -qq -o Acquire::Retries=3 "$@" >"$log" 2>&1 || rc=$?
	if ((rc != 0)); then cat "$log" >&2; fi
	rm -f "$log"
	return "$rc"
}

# need COMMAND PACKAGE...: installs the packages where the command is missing.
need() {
	local command=$1
	shift
	if command -v "$command" >/dev/null; then return 0; fi
	echo "interop: installing $*"
	apt update
	apt install --no-install-recommends "$@"
	command -v "$command" >/dev/null
}
