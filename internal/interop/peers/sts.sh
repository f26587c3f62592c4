# shellcheck shell=bash
# postfix-mta-sts-resolver's mta-sts-query as a second opinion on MTA-STS. The tests bring DNS, on port 53, and the policies.
# Postfix's three hosts are there too, and not used.
# shellcheck disable=SC2034,SC2154 # read and set by room
# shellcheck source-path=SCRIPTDIR source=postfix.sh
. "$here/postfix.sh"
packages+=(postfix-mta-sts-resolver)
tests='^TestSTS'

eval "$(declare -f start | sed 's/^start /start_postfix /')"

start() {
	echo 'nameserver 127.0.0.1' >"$room/etc/resolv.conf"
	cat "$room/peer/tls/ca.pem" >>"$room/etc/ssl/certs/ca-certificates.crt"
	start_postfix
}
export -f start_postfix
