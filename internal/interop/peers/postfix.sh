# shellcheck shell=bash
# Postfix with three hosts: 127.0.0.1 has no TLS, 127.0.0.2 a certificate for its name, 127.0.0.3 one for another name.
# All mail for their domains lands in one Maildir; the local part "refused" is refused.
# shellcheck disable=SC2034,SC2154 # read and set by room
packages=(postfix)
log=/var/log/postfix.log

start() {
	local etc=$room/etc/postfix
	cat >"$etc/main.cf" <<-END
		compatibility_level = 3.6
		myhostname = mx.named.test
		mydestination =
		inet_protocols = ipv4
		maillog_file = $log
		virtual_mailbox_domains = clear.test named.test wrong.test
		virtual_mailbox_base = /peer/box
		virtual_mailbox_maps = static:all/
		virtual_minimum_uid = 1
		virtual_uid_maps = static:65534
		virtual_gid_maps = static:65534
		virtual_mailbox_limit = 0
		message_size_limit = 20000000
		smtpd_relay_restrictions = reject_unauth_destination
		smtpd_recipient_restrictions = check_recipient_access inline:{refused@named.test=REJECT}, permit
		smtpd_tls_received_header = yes
		smtpd_tls_loglevel = 1
		smtpd_peername_lookup = no
		smtputf8_enable = yes
		alias_maps =
		alias_database =
	END
	sed -i '/^smtp[[:space:]]*inet/d' "$etc/master.cf"
	cat >>"$etc/master.cf" <<-END
		127.0.0.1:25 inet n - n - - smtpd -o smtpd_tls_security_level=none
		127.0.0.2:25 inet n - n - - smtpd -o smtpd_tls_security_level=may
		  -o smtpd_tls_chain_files=/peer/tls/mx.named.test.key,/peer/tls/mx.named.test.pem
		127.0.0.3:25 inet n - n - - smtpd -o smtpd_tls_security_level=may
		  -o smtpd_tls_chain_files=/peer/tls/other.test.key,/peer/tls/other.test.pem
	END
	inside postfix start >/dev/null 2>&1
}
