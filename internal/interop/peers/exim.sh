# shellcheck shell=bash
# Exim (GnuTLS) with the same three hosts, domains and refused local part as postfix.sh.
# shellcheck disable=SC2034,SC2154 # read and set by room
packages=(exim4-daemon-heavy)
log=/var/log/exim4/mainlog

start() {
	cat >"$room/etc/exim4/exim4.conf" <<-'END'
		primary_hostname = mx.named.test
		domainlist local_domains = clear.test : named.test : wrong.test
		local_interfaces = <; 127.0.0.1 ; 127.0.0.2 ; 127.0.0.3
		daemon_smtp_ports = 25
		disable_ipv6 = true
		host_lookup =
		rfc1413_query_timeout = 0s
		smtputf8_advertise_hosts = *
		dsn_advertise_hosts = *
		message_size_limit = 20000000
		smtp_accept_queue_per_connection = 0
		log_selector = +received_recipients +tls_cipher +smtp_protocol_error
		tls_advertise_hosts = ${if eq{$received_ip_address}{127.0.0.1}{}{*}}
		tls_certificate = /peer/tls/${if eq{$received_ip_address}{127.0.0.3}{other.test}{mx.named.test}}.pem
		tls_privatekey = /peer/tls/${if eq{$received_ip_address}{127.0.0.3}{other.test}{mx.named.test}}.key
		acl_smtp_rcpt = rcpt
		acl_smtp_data = accept
		begin acl
		rcpt:
		  deny local_parts = refused
		       message = no such user
		  accept domains = +local_domains
		  deny message = relay not permitted
		begin routers
		box:
		  driver = accept
		  transport = box
		begin transports
		box:
		  driver = appendfile
		  directory = /peer/box/all
		  maildir_format
		  return_path_add
		  create_directory
		  user = nobody
		  group = nogroup
	END
	mkdir -p "$room/var/log/exim4"
	inside chown Debian-exim:adm /var/log/exim4
	inside exim4 -bd
}
