package export

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"regexp"

	"github.com/postseal/postseal/securemail/audit"
)

// Systems of codes, and where the profiles and pseudonyms are named.
const (
	dcm          = "http://dicom.nema.org/resources/ontology/DCM"
	terms        = "http://terminology.hl7.org/CodeSystem/"
	interaction  = "http://hl7.org/fhir/restful-interaction"
	balp         = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
	names        = "https://github.com/postseal/postseal/"
	sourceRole   = "110153"
	destination  = "110152"
	machineName  = "1" // of http://hl7.org/fhir/network-type
	otherNetwork = "5" // URI
)

// FHIR writes FHIR R4 AuditEvents, one a line. A delivery, sure or uncertain, is a disclosure (BALP PrivacyDisclosure.Source), one
// AuditEvent for each subject. Acceptance is a Create, reading a Read, the destruction of a key a Delete, and any other change an
// Update, each in its variant for patients where a subject is known. A denied call, a fault and an alert are DICOM Security Alerts,
// for which BALP has no profile; nor has it one for a disclosure whose subject the host did not name. It ends with the first error
// of entries or w.
func FHIR(w io.Writer, entries iter.Seq2[audit.Entry, error], o *Options) error {
	c := o.orDefault()
	return lines(w, entries, func(e *audit.Entry) []any {
		var out []any
		for i, s := range subjects(e) {
			out = append(out, auditEvent(&c, e, s, i))
		}
		return out
	})
}

// subjects are those of e, or one that is nobody.
func subjects(e *audit.Entry) []string {
	if len(e.Subjects) == 0 {
		return []string{""}
	}
	return e.Subjects
}

// act is what an entry is, to FHIR.
type act struct {
	profile, action string
	typ             object
	subtype         object
	outcome         string
	// client and server are the types of the two agents that are programs, user that of the person.
	client, server, user object
}

func coding(system, code, display string) object {
	return object{"system": system, "code": code, "display": display}
}

func concept(c object) object { return object{"coding": []any{c}} }

// rest is an act in the shape of BALP's basic profiles.
func rest(profile, action, code string, a act) act {
	a.profile, a.action, a.outcome = profile, action, "0"
	a.typ = coding(terms+"audit-event-type", "rest", "Restful Operation")
	a.subtype = coding(interaction, code, code)
	if a.client == nil {
		a.client, a.server = coding(dcm, sourceRole, "Source Role ID"), coding(dcm, destination, "Destination Role ID")
	}
	if a.user == nil {
		a.user = coding(terms+"v3-ParticipationType", "AUT", "author (originator)")
	}
	return a
}

func actOf(e *audit.Entry) act {
	switch e.Kind {
	case "delivered", "uncertain":
		a := act{
			profile: "PrivacyDisclosure.Source", action: "R", typ: coding(dcm, "110106", "Export"), outcome: "0",
			subtype: coding(terms+"iso-21089-lifecycle", "disclose", "Disclose"),
			client:  coding(dcm, sourceRole, "Source Role ID"), server: coding(dcm, destination, "Destination Role ID"),
			user: coding(terms+"v3-ParticipationType", "AUT", "author (originator)"),
		}
		if e.Kind == "uncertain" {
			a.outcome = "4"
		}
		return a
	case "accepted":
		return rest("Create", "C", "create", act{})
	case "read":
		return rest("Read", "R", "read", act{
			client: coding(dcm, destination, "Destination Role ID"), server: coding(dcm, sourceRole, "Source Role ID"),
			user: coding(terms+"v3-ParticipationType", "IRCP", "information recipient"),
		})
	case "denied", "fault", "alert":
		a := rest("", "E", "operation", act{})
		a.typ, a.outcome = coding(dcm, "110113", "Security Alert"), "4"
		if e.Kind == "fault" {
			a.outcome = "8"
		}
		return a
	}
	if e.Kind == "key" && e.Detail["action"] == "destroy" && e.Detail["stage"] == "done" {
		return rest("Delete", "D", "delete", act{
			client: coding(dcm, "110150", "Application"),
			server: coding(terms+"provenance-participant-type", "custodian", "Custodian"),
		})
	}
	return rest("Update", "U", "update", act{})
}

// auditEvent is e about one subject, the i-th of it.
func auditEvent(o *Options, e *audit.Entry, subject string, i int) object {
	a := actOf(e)
	out := object{
		"resourceType": "AuditEvent", "id": resourceID(e.Event, i), "type": a.typ, "subtype": []any{a.subtype}, "action": a.action,
		"recorded": e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), "outcome": a.outcome,
		"outcomeDesc": cmp.Or(e.Failure, e.State, e.Kind),
		"agent":       agents(o, e, &a), "entity": entities(e, subject),
		"source": object{
			"site": o.Source, "observer": identifier("system", o.Source),
			"type": []any{coding(terms+"security-source-type", "4", "Application Server")},
		},
	}
	if profile := a.profileFor(subject); profile != "" {
		out["meta"] = object{"profile": []any{balp + profile}}
	}
	if p, ok := purposes[e.Purpose]; ok {
		out["purposeOfEvent"] = []any{concept(p.coding())}
	}
	return out
}

// profileFor is the profile that an AuditEvent about subject meets; "" for none.
func (a *act) profileFor(subject string) string {
	switch {
	case a.profile == "PrivacyDisclosure.Source" && subject == "":
		return ""
	case a.profile == "PrivacyDisclosure.Source", a.profile == "", subject == "":
		return a.profile
	}
	return "Patient" + a.profile
}

var fhirID = regexp.MustCompile(`^[A-Za-z0-9.-]{1,60}$`)

func resourceID(event string, i int) string {
	if !fhirID.MatchString(event) {
		sum := sha256.Sum256([]byte(event))
		event = hex.EncodeToString(sum[:28])
	}
	if i == 0 {
		return event
	}
	return fmt.Sprintf("%s.%d", event, i)
}

// purpose is a code of HL7's v3-ActReason.
type purpose struct{ code, display string }

func (p purpose) coding() object { return coding(terms+"v3-ActReason", p.code, p.display) }

var purposes = map[string]purpose{
	"treatment": {"TREAT", "treatment"}, "payment": {"HPAYMT", "healthcare payment"},
	"operations": {"HOPERAT", "healthcare operations"}, "marketing": {"HMARKT", "healthcare marketing"},
	"research": {"HRESCH", "healthcare research"}, "legal": {"HLEGAL", "legal"},
}

// identifier refers to what has no FHIR address: kind says in which of our lists it stands.
func identifier(kind, value string) object {
	return object{"identifier": object{"system": names + kind, "value": cmp.Or(value, "unknown")}}
}

// agents are the two programs and, where the caller is not one of them, he.
func agents(o *Options, e *audit.Entry, a *act) []any {
	us := object{
		"type": concept(a.client), "who": identifier("system", o.Source), "requestor": false,
		"network": object{"address": o.Source, "type": machineName},
	}
	other := object{"type": concept(a.server), "who": identifier("system", o.Source), "requestor": false, "network": us["network"]}
	switch {
	case a.profile == "PrivacyDisclosure.Source":
		peer := "unknown"
		if e.Receipt != nil {
			peer = cmp.Or(e.Receipt.Peer, peer)
		}
		other["who"] = identifier("pseudonym/address", e.Recipient)
		other["network"] = object{"address": names + "pseudonym/peer/" + peer, "type": otherNetwork}
	case e.By.Origin != nil && e.By.Origin.Network != "":
		us["network"] = object{"address": e.By.Origin.Network, "type": otherNetwork}
	}
	user := object{"type": concept(a.user), "who": identifier("actor", e.By.ID), "requestor": true}
	var roles []any
	for _, r := range e.By.Roles {
		if r != "" {
			roles = append(roles, object{"text": r})
		}
	}
	if len(roles) > 0 {
		user["role"] = roles
	}
	if p, ok := purposes[e.By.Purpose]; ok {
		user["purposeOfUse"] = []any{concept(p.coding())}
	}
	return []any{us, other, user}
}

// entities are what it was done to: the parcel, or what else the entry is about, and the patient.
func entities(e *audit.Entry, subject string) []any {
	data := object{
		"type": coding(terms+"audit-entity-type", "2", "System Object"), "role": coding(terms+"object-role", "20", "Job"),
		"what": identifier("parcel", e.Parcel),
	}
	if e.Parcel == "" {
		data["role"] = coding(terms+"object-role", "4", "Domain Resource")
		data["what"] = identifier("event", e.Event)
	}
	if d := details(e); len(d) > 0 {
		data["detail"] = d
	}
	out := []any{data}
	if subject != "" {
		what := identifier("pseudonym/subject", subject)
		what["type"] = "Patient"
		out = append(out, object{
			"type": coding(terms+"audit-entity-type", "1", "Person"), "role": coding(terms+"object-role", "1", "Patient"), "what": what,
		})
	}
	return out
}

// details are the evidence in an entry, by name.
func details(e *audit.Entry) []any {
	var out []any
	for _, f := range facts(e) {
		out = append(out, object{"type": f.name, "valueString": f.value})
	}
	return out
}
