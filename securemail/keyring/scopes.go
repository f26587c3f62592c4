package keyring

import (
	"strings"

	"github.com/postseal/postseal/securemail"
)

// Scopes are names that a host may make up. These are the ones that the library's own parts use, so that Destroy reaches
// what they stored: a submission's bodies, a tenant's queue, pinned keys and deposits, a person's deposits and records.

// TenantScope is the scope of all that an organisation stored; "" is that of a program of one tenant. A queue seals its own
// events under its tenants' scopes: destroy one only when the log has read them.
func TenantScope(tenant string) string { return "tenant/" + tenant }

// SubmissionScope is the scope of one Send.
func SubmissionScope(id string) string { return "submission/" + id }

// SubjectScope is the scope of all that is stored about one person of a tenant. A slash or percent sign in the tenant is
// escaped as in a URL's path, so that no tenant's subject is another's; in a program of one tenant it is "subject/" and the
// subject.
func SubjectScope(tenant string, s securemail.Subject) string {
	if tenant == "" {
		return "subject/" + string(s)
	}
	return "subject/" + escapeSlash(tenant) + "/" + string(s)
}

// CohortScope is the scope of records that are to end together, as those of one class and year, where a law allows none
// to be destroyed one by one.
func CohortScope(tenant, cohort string) string {
	return "cohort/" + escapeSlash(tenant) + "/" + cohort
}

func escapeSlash(s string) string { return strings.NewReplacer("%", "%25", "/", "%2F").Replace(s) }
