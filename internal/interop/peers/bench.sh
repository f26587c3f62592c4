# shellcheck shell=bash
# The far ends of internal/bench: smtp-sink on 127.0.0.1, and a Postfix with TLS, on 127.0.0.2 and 127.0.0.3, that takes all
# mail and discards it. Its spool is in memory, and it does not hold back those who send faster than it discards.
# shellcheck disable=SC2034,SC2154 # read and set by room
packages=(postfix)
log=/var/log/postfix.log

start() {
	local etc=$room/etc/postfix host
	cat >"$etc/main.cf" <<-END
		compatibility_level = 3.6
		myhostname = mx.bench.test
		mydestination =
		mynetworks = 127.0.0.0/8
		inet_protocols = ipv4
		maillog_file = $log
		default_transport = discard:
		in_flow_delay = 0
		smtpd_peername_lookup = no
		smtpd_tls_chain_files = /peer/tls/bench.key,/peer/tls/bench.pem
		alias_maps =
		alias_database =
	END
	sed -i '/^smtp[[:space:]]*inet/d' "$etc/master.cf"
	for host in 127.0.0.2 127.0.0.3; do
		echo "$host:25 inet n - n - - smtpd -o smtpd_tls_security_level=may" >>"$etc/master.cf"
	done
	inside postfix start >/dev/null 2>&1
	inside smtp-sink -u postfix -m 512 127.0.0.1:25 512 >/dev/null 2>&1 &
}
