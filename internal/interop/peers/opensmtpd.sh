# shellcheck shell=bash
# OpenSMTPD with the same three hosts, domains and refused local part as postfix.sh. It knows no PIPELINING, SMTPUTF8 or
# CHUNKING. Debian's 6.8 offers STARTTLS and can't do it since OpenSSL 3: 127.0.0.4 is such a host, and stunnel does TLS
# in front of the other two.
# shellcheck disable=SC2034,SC2154 # read and set by room
packages=(opensmtpd stunnel4)
log=/var/log/opensmtpd.log

start() {
	cat >"$room/etc/smtpd.conf" <<-END
		pki broken cert "/peer/tls/mx.named.test.pem"
		pki broken key "/peer/tls/mx.named.test.key"
		smtp max-message-size "20M"
		table boxes { "@clear.test" = nobody, "@named.test" = nobody, "@wrong.test" = nobody, "@broken.test" = nobody }
		listen on 127.0.0.1 port 25 hostname mx.named.test
		listen on 127.0.0.4 port 25 hostname mx.broken.test tls pki broken
		action box maildir "/peer/box/all" virtual <boxes> user nobody
		match from any for rcpt-to "refused@named.test" reject
		match from any for domain { "clear.test", "named.test", "wrong.test", "broken.test" } action box
	END
	cat >"$room/etc/stunnel/stunnel.conf" <<-END
		foreground = yes
		[named]
		protocol = smtp
		accept = 127.0.0.2:25
		connect = 127.0.0.1:25
		cert = /peer/tls/mx.named.test.pem
		key = /peer/tls/mx.named.test.key
		[other]
		protocol = smtp
		accept = 127.0.0.3:25
		connect = 127.0.0.1:25
		cert = /peer/tls/other.test.pem
		key = /peer/tls/other.test.key
	END
	chmod 600 "$room"/peer/tls/*.key
	inside smtpd -d >>"$room$log" 2>&1 &
	inside stunnel4 /etc/stunnel/stunnel.conf >>"$room$log" 2>&1 &
}
