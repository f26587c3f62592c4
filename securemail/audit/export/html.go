package export

import (
	"bufio"
	_ "embed"
	"html/template"
	"io"
	"sync"
)

//go:embed report.html
var page string

var pageTemplate = sync.OnceValues(func() (*template.Template, error) {
	return template.New("report").Funcs(template.FuncMap{"stamp": stamp}).Parse(page)
})

// HTML writes the report as one page to read and print: it loads nothing, runs no script, and works for who reads it by ear.
func (r *Report) HTML(w io.Writer, o *Options) error {
	t, err := pageTemplate()
	if err != nil {
		return err
	}
	c := o.orDefault()
	buf := bufio.NewWriter(w)
	if err := t.Execute(buf, struct {
		*Report
		Options
		Totals []total
	}{r, c, []total{{"State", r.States}, {"Method", r.Methods}, {"Protection", r.Protections}}}); err != nil {
		return err
	}
	return buf.Flush()
}

// total is one table of counts.
type total struct {
	By     string
	Counts []Count
}
