package export_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/html"

	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/audit/export"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errRead = errors.New("unreadable")

// of yields es, and then err where it is not nil.
func of(err error, es ...audit.Entry) iter.Seq2[audit.Entry, error] {
	return func(yield func(audit.Entry, error) bool) {
		for _, e := range es {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(audit.Entry{}, err)
		}
	}
}

var start = time.Date(2026, 11, 25, 8, 0, 0, 123456789, time.UTC)

// about is an entry about a parcel.
func about(n int, parcel, kind string) audit.Entry {
	return audit.Entry{
		V: 1, Event: fmt.Sprintf("ev%02d", n), Kind: kind, State: kind, Time: start.Add(time.Duration(n) * time.Second), Parcel: parcel,
		Submission: "s1", From: strings.Repeat("a", 32), Recipient: strings.Repeat("b", 32), Subjects: []string{strings.Repeat("c", 32)},
		Purpose: "treatment", Policy: "hipaa@3", By: audit.Caller{Tenant: "clinic", ID: "mailer", Kind: "part"},
	}
}

// story is what each kind of entry can say.
func story() []audit.Entry {
	delivered := about(3, "p1", "delivered")
	delivered.Attempt = 2
	delivered.Choice = &audit.Choice{Method: "tls", Channel: "named"}
	delivered.Decision = &audit.Decision{Policy: "hipaa@3", Else: "bounce", Uncertain: "hold"}
	delivered.Protection = &audit.Protection{Algorithm: "none"}
	delivered.Reasons = []audit.Reason{{Rule: "choice/tls", Text: "used"}}
	delivered.Receipt = &audit.Receipt{
		Hop: "asserted", Peer: strings.Repeat("d", 32), Proof: "dane", Time: start, Operator: &audit.Operator{Name: "relay", Agreement: "baa-1"},
		TLS: &audit.TLS{Version: "TLS 1.3", Suite: "TLS_AES_128_GCM_SHA256", Group: "X25519MLKEM768", Chain: strings.Repeat("0", 64)},
	}
	sealed := about(5, "p2", "delivered")
	sealed.Subjects = []string{"s1", "s2"}
	sealed.Choice = &audit.Choice{Method: "pgp", Channel: "any"}
	sealed.Protection = &audit.Protection{Algorithm: "OpenPGP AES256", Keys: []string{"f1", "f2"}}
	sealed.Receipt = &audit.Receipt{Hop: "final", Time: start}
	read := about(6, "p1", "read")
	read.State, read.Read = "delivered", start.Add(time.Hour)
	read.By = audit.Caller{
		Tenant: "clinic", ID: "nurse", Kind: "person", Roles: []string{"reader", ""}, Purpose: "payment",
		Auth: &audit.Auth{Method: "passkey", Session: "e5"}, Origin: &audit.Origin{Network: "ward"},
	}
	bounced := about(7, "p3", "bounced")
	bounced.Failure, bounced.Subjects, bounced.Reasons = "no such mailbox", nil, []audit.Reason{{Rule: "permanent"}}
	held := about(8, "=cmd|' /C calc'!A0", "held")
	held.By.ID = ""
	uncertain := about(9, "p4", "uncertain")
	nobody := about(10, "p5", "delivered")
	nobody.Subjects, nobody.Receipt = nil, &audit.Receipt{Hop: "final", TLS: &audit.TLS{Version: "TLS 1.2", Suite: "x"}}
	readNobody := read
	readNobody.Event, readNobody.Subjects, readNobody.Parcel = strings.Repeat("x ", 99), nil, ""
	fault := about(19, "p1", "fault")
	fault.State = "delivered"
	part := func(n int, kind string, detail map[string]string) audit.Entry {
		return audit.Entry{V: 1, Event: fmt.Sprintf("ev%02d", n), Kind: kind, Time: start, Detail: detail, By: audit.Caller{Tenant: "clinic", ID: "dr", Kind: "person"}}
	}
	return []audit.Entry{
		about(1, "p1", "accepted"), about(2, "p1", "attempting"), delivered, about(4, "p2", "accepted"), sealed, read, bounced, held, uncertain,
		nobody, readNobody, part(12, "denied", map[string]string{"action": "read", "resource": "parcel"}), part(13, "policy", map[string]string{"policy": "p@2"}),
		part(14, "key", map[string]string{"action": "destroy", "stage": "done"}), part(15, "key", map[string]string{"action": "rotate-root"}),
		part(16, "alert", map[string]string{"rule": "burst"}), part(17, "fault", nil), part(18, "denied", nil), fault,
	}
}

func schema(t testing.TB, file string) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile("testdata/" + file)
	require.NoError(t, err)
	return s
}

// objects are the lines of out.
func objects(t testing.TB, out []byte) []map[string]any {
	t.Helper()
	var all []map[string]any
	for _, line := range bytes.Split(bytes.TrimSuffix(out, []byte("\n")), []byte("\n")) {
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
		require.NoError(t, err)
		all = append(all, v.(map[string]any))
	}
	return all
}

func TestFHIRMeetsSchemaAndProfiles(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, export.FHIR(&out, of(nil, story()...), &export.Options{Source: "mail.clinic.example"}))
	s := schema(t, "fhir-r4-auditevent.schema.json")
	profiles, sets := balpProfiles(t)
	used, ids := map[string]int{}, map[string]bool{}
	for _, e := range objects(t, out.Bytes()) {
		require.NoError(t, s.Validate(e))
		require.False(t, ids[e["id"].(string)], "twice: %v", e["id"])
		ids[e["id"].(string)] = true
		meta, ok := e["meta"].(map[string]any)
		if !ok {
			used[""]++
			continue
		}
		id := strings.TrimPrefix(meta["profile"].([]any)[0].(string), "https://profiles.ihe.net/ITI/BALP/StructureDefinition/")
		require.Contains(t, profiles, id)
		require.Empty(t, violations(e, profiles[id], sets), id)
		used[id]++
	}
	require.Equal(t, map[string]int{
		"": 6, "IHE.BasicAudit.PrivacyDisclosure.Source": 4, "IHE.BasicAudit.PatientCreate": 2, "IHE.BasicAudit.PatientUpdate": 2,
		"IHE.BasicAudit.PatientRead": 1, "IHE.BasicAudit.Read": 1, "IHE.BasicAudit.Update": 3, "IHE.BasicAudit.Delete": 1,
	}, used)
}

// TestProfilesBite: the reader of profiles sees what is wrong.
func TestProfilesBite(t *testing.T) {
	profiles, sets := balpProfiles(t)
	p := profiles["IHE.BasicAudit.PrivacyDisclosure.Source"]
	for name, change := range map[string]func(e map[string]any){
		"no patient":       func(e map[string]any) { e["entity"] = e["entity"].([]any)[:1] },
		"another action":   func(e map[string]any) { e["action"] = "U" },
		"another type":     func(e map[string]any) { e["type"].(map[string]any)["code"] = "110107" },
		"no disclosure":    func(e map[string]any) { e["subtype"] = []any{} },
		"no recipient":     func(e map[string]any) { a := e["agent"].([]any); e["agent"] = append(a[:1:1], a[2]) },
		"two sources":      func(e map[string]any) { a := e["agent"].([]any); e["agent"] = append(a, a[0]) },
		"no network":       func(e map[string]any) { delete(e["agent"].([]any)[1].(map[string]any), "network") },
		"another observer": func(e map[string]any) { e["source"].(map[string]any)["observer"] = map[string]any{} },
		"no person": func(e map[string]any) {
			e["entity"].([]any)[1].(map[string]any)["what"] = map[string]any{"type": "Device"}
		},
		"not the role": func(e map[string]any) { e["entity"].([]any)[1].(map[string]any)["role"].(map[string]any)["code"] = "2" },
		"an extension": func(e map[string]any) { e["modifierExtension"] = []any{map[string]any{}} },
	} {
		var out bytes.Buffer
		require.NoError(t, export.FHIR(&out, of(nil, story()[2]), nil))
		e := objects(t, out.Bytes())[0]
		require.Empty(t, violations(e, p, sets))
		change(e)
		require.NotEmpty(t, violations(e, p, sets), name)
	}
}

func TestOCSFMeetsSchema(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, export.OCSF(&out, of(nil, story()...), nil))
	s := schema(t, "ocsf-1.8.0.schema.json")
	classes := map[string]int{}
	for _, e := range objects(t, out.Bytes()) {
		require.NoError(t, s.Validate(e))
		classes[fmt.Sprint(e["class_uid"])]++
	}
	require.Equal(t, map[string]int{"4009": 10, "6003": 4, "3004": 5}, classes)
	e := objects(t, out.Bytes())[0]
	e["class_uid"] = json.Number("4001")
	require.Error(t, s.Validate(e), "the schema bites")
}

func TestLines(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, export.Lines(&out, of(nil, story()...)))
	dec := json.NewDecoder(&out)
	var got []audit.Entry
	for dec.More() {
		var e audit.Entry
		require.NoError(t, dec.Decode(&e))
		got = append(got, e)
	}
	require.Equal(t, story(), got)
}

func TestReport(t *testing.T) {
	r, err := export.Summarise(of(nil, story()...))
	require.NoError(t, err)
	require.Len(t, r.Rows, 6)
	p1 := r.Rows[0]
	require.Equal(t, export.Row{
		Parcel: "p1", Submission: "s1", Tenant: "clinic", Recipient: strings.Repeat("b", 32), Purpose: "treatment", State: "delivered",
		Accepted: start.Add(time.Second), Changed: start.Add(3 * time.Second), Attempts: 2, Method: "tls", Floor: "named",
		Protection: "TLS, name proved by dane", TLS: "TLS 1.3 TLS_AES_128_GCM_SHA256 X25519MLKEM768", Proof: "dane", Hop: "asserted",
		Operator: "relay baa-1", Policy: "hipaa@3", Read: start.Add(time.Hour), Reason: "choice/tls: used",
	}, p1, "a fault is no state")
	require.Equal(t, "sealed: OpenPGP AES256", r.Rows[1].Protection)
	require.Equal(t, "f1 f2", r.Rows[1].Keys)
	require.Equal(t, "permanent", r.Rows[2].Reason)
	require.Equal(t, []export.Count{{"bounced", 1}, {"delivered", 3}, {"held", 1}, {"uncertain", 1}}, r.States)
	require.Equal(t, []export.Count{{"-", 4}, {"pgp", 1}, {"tls", 1}}, r.Methods)
	require.Equal(t, []export.Count{{"-", 3}, {"TLS, name not proved", 1}, {"TLS, name proved by dane", 1}, {"sealed: OpenPGP AES256", 1}}, r.Protections)

	es := story()
	for i, j := 0, len(es)-1; i < j; i, j = i+1, j-1 {
		es[i], es[j] = es[j], es[i]
	}
	back, err := export.Summarise(of(nil, es...))
	require.NoError(t, err)
	require.Equal(t, r.States, back.States, "the order of entries does not matter")
	require.Equal(t, r.Protections, back.Protections)
}

func TestCSV(t *testing.T) {
	r, err := export.Summarise(of(nil, story()...))
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, r.CSV(&out))
	require.Equal(t, 7, strings.Count(out.String(), "\r\n"))
	rows, err := csv.NewReader(&out).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 7)
	require.Equal(t, "parcel", rows[0][0])
	require.Equal(t, "'=cmd|' /C calc'!A0", rows[4][0])
}

func TestCSVHoldsNoFormula(t *testing.T) {
	for _, s := range []string{"=1", "+1", "-1", "@x", "\t=1", " =1", "\r=1", "＝1", "%0a=1"} {
		e := about(1, s, "held")
		r, err := export.Summarise(of(nil, e))
		require.NoError(t, err)
		var out bytes.Buffer
		require.NoError(t, r.CSV(&out))
		rows, err := csv.NewReader(&out).ReadAll()
		require.NoError(t, err)
		require.Equal(t, "'", rows[1][0][:1], s)
	}
}

func TestReportJSON(t *testing.T) {
	r, err := export.Summarise(of(nil, story()...))
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, r.JSON(&out))
	var back export.Report
	require.NoError(t, json.Unmarshal(out.Bytes(), &back))
	require.Equal(t, *r, back)
}

func TestHTML(t *testing.T) {
	e := about(1, "p1", "held")
	e.Reasons = []audit.Reason{{Rule: "r", Text: `<script>alert(1)</script>`}}
	r, err := export.Summarise(of(nil, e))
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, r.HTML(&out, &export.Options{Title: "Week <47>", Filter: "kind held", PublicKey: "log+1+key", Now: start}))
	for _, want := range []string{"Week &lt;47&gt;", "kind held", "log&#43;1&#43;key", "&lt;script&gt;", "2026-11-25T08:00:00Z", "verify-evidence"} {
		require.Contains(t, out.String(), want)
	}
	doc, err := html.Parse(bytes.NewReader(out.Bytes()))
	require.NoError(t, err)
	captions, tables := 0, 0
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		require.NotContains(t, []string{"script", "img", "link", "iframe"}, n.Data, "it loads nothing and runs nothing")
		switch n.Data {
		case "table":
			tables++
		case "caption":
			captions++
		case "th":
			require.Equal(t, "scope", n.Attr[0].Key, "a reader by ear hears which cell belongs to what")
		case "html":
			require.Equal(t, "lang", n.Attr[0].Key)
		}
	}
	require.Equal(t, 4, tables)
	require.Equal(t, 4, captions)
}

// fullDisk is a writer that takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestErrors(t *testing.T) {
	forms := map[string]func(io.Writer, iter.Seq2[audit.Entry, error]) error{
		"fhir":  func(w io.Writer, es iter.Seq2[audit.Entry, error]) error { return export.FHIR(w, es, nil) },
		"ocsf":  func(w io.Writer, es iter.Seq2[audit.Entry, error]) error { return export.OCSF(w, es, nil) },
		"lines": export.Lines,
		"csv":   reported((*export.Report).CSV),
		"json":  reported((*export.Report).JSON),
		"html":  reported(func(r *export.Report, w io.Writer) error { return r.HTML(w, nil) }),
	}
	for name, f := range forms {
		require.ErrorIs(t, f(io.Discard, of(errRead, story()...)), errRead, name)
		var many []audit.Entry
		for i := range 3000 {
			many = append(many, about(i, fmt.Sprint("p", i), "accepted"))
		}
		require.ErrorIs(t, f(fullDisk{}, of(nil, many...)), io.ErrShortWrite, name)
	}
}

func reported(write func(*export.Report, io.Writer) error) func(io.Writer, iter.Seq2[audit.Entry, error]) error {
	return func(w io.Writer, es iter.Seq2[audit.Entry, error]) error {
		r, err := export.Summarise(es)
		if err != nil {
			return err
		}
		return write(r, w)
	}
}

// What became of each parcel; CSV, JSON and HTML write the same.
func ExampleSummarise() {
	entries := of(nil, about(1, "p1", "accepted"), about(2, "p1", "held"), about(3, "p2", "accepted"))
	r, err := export.Summarise(entries) // of log.Search
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, row := range r.Rows {
		fmt.Println(row.Parcel, row.State, row.Accepted.Format(time.TimeOnly))
	}
	fmt.Println(r.States)
	// Output:
	// p1 held 08:00:01
	// p2 accepted 08:00:03
	// [{accepted 1} {held 1}]
}
