package tlsrpt

import "net/netip"

// PolicyType is the kind of policy that a session was held to (RFC 8460 section 4.4, "policy-type").
type PolicyType string

// The policy types. The zero value counts as NoPolicy.
const (
	// TLSA is DANE (RFC 7672).
	TLSA PolicyType = "tlsa"
	// STS is MTA-STS (RFC 8461).
	STS PolicyType = "sts"
	// NoPolicy says that the domain has neither.
	NoPolicy PolicyType = "no-policy-found"
)

// FailureType says why a session failed (RFC 8460 section 4.3). The empty one is success.
type FailureType string

// The failure types of RFC 8460 section 4.3.
const (
	// STARTTLSNotSupported: the host does not offer STARTTLS.
	STARTTLSNotSupported FailureType = "starttls-not-supported"
	// CertificateHostMismatch: the certificate is for other names.
	CertificateHostMismatch FailureType = "certificate-host-mismatch"
	// CertificateExpired: the certificate is out of its time.
	CertificateExpired FailureType = "certificate-expired"
	// CertificateNotTrusted: no trusted authority vouches for the certificate.
	CertificateNotTrusted FailureType = "certificate-not-trusted"
	// ValidationFailure is any other failure of TLS.
	ValidationFailure FailureType = "validation-failure"
	// TLSAInvalid: the TLSA records can't be used, or none matches.
	TLSAInvalid FailureType = "tlsa-invalid"
	// DNSSECInvalid: no authentic answer could be had.
	DNSSECInvalid FailureType = "dnssec-invalid"
	// DANERequired: the sender asks for DANE and the domain has none.
	DANERequired FailureType = "dane-required"
	// STSPolicyFetchError: the policy could not be fetched.
	STSPolicyFetchError FailureType = "sts-policy-fetch-error"
	// STSPolicyInvalid: the policy breaks a rule.
	STSPolicyInvalid FailureType = "sts-policy-invalid"
	// STSWebPKIInvalid: the policy host's certificate did not verify.
	STSWebPKIInvalid FailureType = "sts-webpki-invalid"
)

// known says whether f is of RFC 8460.
func (f FailureType) known() bool {
	switch f {
	case STARTTLSNotSupported, CertificateHostMismatch, CertificateExpired, CertificateNotTrusted, ValidationFailure,
		TLSAInvalid, DNSSECInvalid, DANERequired, STSPolicyFetchError, STSPolicyInvalid, STSWebPKIInvalid:
		return true
	}
	return false
}

// Result is how one SMTP session with a mail host of a domain went, under one policy. Where a domain has both DANE and
// MTA-STS, add one Result for each.
//
// It holds names of domains and hosts, never an address of a person. What is longer or stranger than a report needs is
// cut or left out.
type Result struct {
	// Domain is the recipient's domain, in A-labels: whom the report is for.
	Domain string
	Type   PolicyType
	// PolicyDomain is whose policy it is: for STS the Domain, for TLSA the TLSA base domain (RFC 7672 section 2.2.3).
	// Empty: Domain.
	PolicyDomain string
	// PolicyStrings are the policy as published: TLSA records in presentation format, or the lines of the STS policy.
	PolicyStrings []string
	// MXHosts are the mx patterns of an STS policy.
	MXHosts []string

	// Failure is empty for success; one that RFC 8460 does not know counts as ValidationFailure.
	Failure FailureType
	// SendingIP is our address, ReceivingIP the host's; both may be invalid (unknown). They are reported with failures only.
	SendingIP, ReceivingIP netip.Addr
	// ReceivingMX is the host's name in the MX record, ReceivingHELO what it called itself in its greeting.
	ReceivingMX, ReceivingHELO string
	// Reason is a short code of ours ("failure-reason-code"), Info a text or URI of ours ("additional-information").
	// Neither may quote the far end.
	Reason, Info string
}

// HeaderDomain is the header field that each report by mail has (RFC 8460 section 5.3). Sessions that carry such a
// message are not counted.
const HeaderDomain = "TLS-Report-Domain"
