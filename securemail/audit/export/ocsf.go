package export

import (
	"cmp"
	"io"
	"iter"

	"github.com/postseal/postseal/securemail/audit"
)

// ocsfVersion is the version of the schema: https://github.com/ocsf/ocsf-schema, tag 1.8.0.
const ocsfVersion = "1.8.0"

// Classes of OCSF, and the categories they are in.
const (
	emailActivity, network        = 4009, 4
	apiActivity, application      = 6003, 6
	entityManagement, identity    = 3004, 3
	create, read, update, destroy = 1, 2, 3, 4 // activities of the last two
	send, trace                   = 1, 4       // activities of the first
)

// OCSF writes OCSF events, one a line. What happens to a parcel is Email Activity: Send where the far end may have it, else
// Trace. Reading, and a call that was denied, is API Activity; all else, such as what is done to keys and policies, is Entity
// Management. People stand as PSEUDONYM@pseudonym.invalid; what OCSF has no field for is under "unmapped". It ends with the
// first error of entries or w.
func OCSF(w io.Writer, entries iter.Seq2[audit.Entry, error], o *Options) error {
	c := o.orDefault()
	return lines(w, entries, func(e *audit.Entry) []any { return []any{ocsfEvent(&c, e)} })
}

func ocsfEvent(o *Options, e *audit.Entry) object {
	out := object{
		"time": e.Time.UnixMilli(), "severity_id": severity(e), "message": cmp.Or(e.Failure, e.State, e.Kind),
		"metadata": object{
			"version": ocsfVersion, "uid": e.Event, "correlation_uid": cmp.Or(e.Submission, e.Event), "tenant_uid": cmp.Or(e.By.Tenant, "default"),
			"log_name": o.Source, "event_code": e.Kind, "product": object{"name": "postseal", "vendor_name": "postseal"},
		},
		"status_id": status(e), "actor": actor(e),
	}
	unmapped := object{}
	for _, f := range facts(e) {
		unmapped[f.name] = f.value
	}
	if len(unmapped) > 0 {
		out["unmapped"] = unmapped
	}
	switch {
	case e.Kind == "read" || e.Kind == "denied":
		class(out, apiActivity, application, apiVerb(e))
		out["api"] = object{"operation": cmp.Or(e.Detail["action"], e.Kind)}
		out["src_endpoint"] = endpoint(o, e)
		if e.Parcel != "" {
			out["resources"] = []any{object{"type": "parcel", "uid": e.Parcel}}
		}
	case e.Parcel != "" && (e.From != "" || e.Recipient != ""):
		activity := trace
		if e.State == "attempting" || e.State == "delivered" || e.State == "uncertain" {
			activity = send
		}
		class(out, emailActivity, network, activity)
		delete(out, "actor") // Email Activity has none
		mail(out, e)
	default:
		activity := update
		if e.Kind == "key" && e.Detail["action"] == "destroy" && e.Detail["stage"] == "done" {
			activity = destroy
		}
		class(out, entityManagement, identity, activity)
		out["entity"] = object{"type": e.Kind, "uid": cmp.Or(e.Parcel, e.Detail["id"], e.Event)}
	}
	return out
}

func class(out object, uid, category, activity int) {
	out["class_uid"], out["category_uid"], out["activity_id"], out["type_uid"] = uid, category, activity, 100*uid+activity
}

// apiVerb is what was asked for.
func apiVerb(e *audit.Entry) int {
	if e.Kind == "read" {
		return read
	}
	return map[string]int{"create": create, "send": create, "read": read, "delete": destroy, "destroy": destroy}[e.Detail["action"]] // 0: unknown
}

func mail(out object, e *audit.Entry) {
	email := object{"uid": e.Parcel}
	if e.From != "" {
		email["from"] = veiled(e.From)
	}
	if e.Recipient != "" {
		email["to"] = []any{veiled(e.Recipient)}
	}
	out["email"], out["direction_id"], out["protocol_name"] = email, 2, "SMTP" // outbound
	if e.Submission != "" {
		out["message_trace_uid"] = e.Submission
	}
	if e.Attempt > 0 {
		out["attempt"] = e.Attempt
	}
	if e.Receipt != nil && e.Receipt.Peer != "" {
		out["dst_endpoint"] = object{"uid": e.Receipt.Peer}
	}
}

func veiled(pseudonym string) string { return pseudonym + "@pseudonym.invalid" }

func actor(e *audit.Entry) object {
	out := object{"user": object{"uid": cmp.Or(e.By.ID, "unknown")}}
	if e.By.Auth != nil && e.By.Auth.Session != "" {
		out["session"] = object{"uid": e.By.Auth.Session}
	}
	return out
}

// endpoint is where the caller was, as far as the entry says.
func endpoint(o *Options, e *audit.Entry) object {
	if e.By.Origin != nil {
		if where := cmp.Or(e.By.Origin.Network, e.By.Origin.Device, e.By.Origin.Place); where != "" {
			return object{"name": where}
		}
	}
	return object{"svc_name": o.Source, "name": o.Source}
}

// severity: informational, medium, high.
func severity(e *audit.Entry) int {
	switch e.Kind {
	case "fault", "alert":
		return 4
	case "denied", "uncertain", "bounced", "held", "expired", "restored":
		return 3
	}
	return 1
}

// status: success, or failure.
func status(e *audit.Entry) int {
	switch e.Kind {
	case "denied", "fault", "bounced", "refused", "expired", "dropped", "uncertain":
		return 2
	}
	return 1
}
