package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sector is what a disk writes whole or not at all.
const sector = 512

// inode is a file as it is on the disk, and what was written since its last fsync.
type inode struct {
	dir     bool
	synced  []byte
	pending []change
	done    int // changes that were synced
}

// change is a write, or with data nil a cut to the length off.
type change struct {
	off  int64
	data []byte
}

// entry is a change of a folder's names: name is now to, or nothing, and gone is no name any more.
type entry struct {
	name string
	to   *inode
	gone string
}

// handle is an open file.
type handle struct {
	node   *inode
	path   string
	pos    int64
	append bool
}

// disk is a folder as its files were written, and what of it a power cut leaves. The model: what fsync returned for is there;
// of a file's writes since, any are there, and one may be torn at a sector; of a folder's names changed since its fsync, the
// first so many are changed, in their order, as file systems with a journal do. A file's fsync does not make its name durable.
type disk struct {
	root string
	// live is what the program sees, durable what fsync promised, by path.
	live, durable map[string]*inode
	names         map[string][]entry // by folder, changes since its last fsync
	done          map[string]int     // by folder, how many were synced
	open          map[string]*handle // by descriptor
	begun         map[string]*mark   // by thread, its sync or close under way
	// deaf are name endings whose fsync is not heard: a disk that lies, to see that the count notices.
	deaf []string
	// out gets what was written to standard output.
	out func(s string)
}

func newDisk(root string, out func(string)) *disk {
	return &disk{
		root: root, live: map[string]*inode{}, durable: map[string]*inode{}, names: map[string][]entry{}, done: map[string]int{},
		open: map[string]*handle{}, begun: map[string]*mark{}, out: out,
	}
}

func (d *disk) mine(path string) bool { return strings.HasPrefix(path, d.root+"/") }

// name changes path in what is seen; it is durable once its folder is synced.
func (d *disk) name(path string, to *inode) {
	if to == nil {
		delete(d.live, path)
	} else {
		d.live[path] = to
	}
	dir := filepath.Dir(path)
	d.names[dir] = append(d.names[dir], entry{name: path, to: to})
}

// apply does what c did.
func (d *disk) apply(c call) error {
	switch c.name {
	case "openat", "open", "creat":
		d.opened(c)
	case "begin close":
		delete(d.open, fd(c.args[0]))
		d.begun[c.thread] = nil
	case "close":
		if _, begun := d.begun[c.thread]; !begun {
			delete(d.open, fd(c.args[0]))
		}
		delete(d.begun, c.thread)
	case "begin fsync", "begin fdatasync":
		if h := d.open[fd(c.args[0])]; h != nil {
			d.begun[c.thread] = d.reach(h)
		}
	case "write", "pwrite64":
		return d.write(c)
	case "lseek":
		if h := d.open[fd(c.args[0])]; h != nil {
			h.pos = c.ret
		}
	case "ftruncate":
		n, err := strconv.ParseInt(c.args[1], 10, 64)
		if h := d.open[fd(c.args[0])]; h != nil && err == nil {
			h.node.pending = append(h.node.pending, change{off: n})
		}
	case "fsync", "fdatasync":
		d.sync(c)
	case "mkdirat", "mkdir":
		if path := pathOf(c); d.mine(path) {
			d.name(path, &inode{dir: true})
		}
	case "unlinkat", "unlink", "rmdir":
		if path := pathOf(c); d.mine(path) {
			d.name(path, nil)
		}
	case "renameat", "renameat2", "rename":
		d.rename(c)
	case "writev", "pwritev", "pwritev2", "truncate", "fallocate", "link", "linkat", "symlink", "symlinkat", "dup", "dup2", "dup3":
		if d.touches(c) {
			return fmt.Errorf("%w: %s on a file of the library is not modelled", errTrace, c.name)
		}
	}
	return nil
}

func (d *disk) touches(c call) bool {
	return d.open[fd(c.args[0])] != nil || slices.ContainsFunc(c.args, d.mine)
}

// fd is the number before the brackets.
func fd(arg string) string {
	n, _, _ := strings.Cut(arg, "<")
	return n
}

// pathOf is the last string argument that is a path.
func pathOf(c call) string {
	for _, a := range c.args {
		if strings.HasPrefix(a, "/") {
			return a
		}
	}
	return ""
}

func (d *disk) opened(c call) {
	path := pathOf(c)
	if !d.mine(path) && path != d.root {
		return
	}
	flags := strings.Join(c.args, " ")
	node := d.live[path]
	if path == d.root {
		node = &inode{dir: true}
	}
	if node == nil {
		node = new(inode)
		d.name(path, node)
	}
	if strings.Contains(flags, "O_TRUNC") {
		node.pending = append(node.pending, change{})
	}
	d.open[strconv.FormatInt(c.ret, 10)] = &handle{node: node, path: path, append: strings.Contains(flags, "O_APPEND")}
}

func (d *disk) write(c call) error {
	number := fd(c.args[0])
	data := c.args[1][:c.ret]
	if number == "1" {
		d.out(data)
	}
	h := d.open[number]
	if h == nil {
		return nil
	}
	off := h.pos
	switch {
	case c.name == "pwrite64":
		var err error
		if off, err = strconv.ParseInt(c.args[3], 10, 64); err != nil {
			return errTrace
		}
	case h.append:
		off = h.node.size()
		fallthrough
	default:
		h.pos = off + c.ret
	}
	h.node.pending = append(h.node.pending, change{off, []byte(data)})
	return nil
}

// size is how long the program sees the file.
func (n *inode) size() int64 {
	size := int64(len(n.synced))
	for _, c := range n.pending {
		if c.data == nil {
			size = c.off
		}
		size = max(size, c.off+int64(len(c.data)))
	}
	return size
}

// mark is how far a sync reaches: the number of changes that came before it, of a file or of a folder's names.
type mark struct {
	h *handle
	n int
}

func (d *disk) reach(h *handle) *mark {
	if h.node.dir {
		return &mark{h, d.done[h.path] + len(d.names[h.path])}
	}
	return &mark{h, h.node.done + len(h.node.pending)}
}

func (d *disk) sync(c call) {
	h := d.open[fd(c.args[0])]
	if h == nil {
		return
	}
	m := d.begun[c.thread]
	if delete(d.begun, c.thread); m == nil {
		m = d.reach(h)
	}
	if h = m.h; slices.ContainsFunc(d.deaf, func(end string) bool { return strings.HasSuffix(h.path, end) }) {
		return
	}
	if h.node.dir {
		n := max(0, m.n-d.done[h.path]) // another sync may have ended meanwhile
		for _, e := range d.names[h.path][:n] {
			put(d.durable, e)
		}
		d.names[h.path], d.done[h.path] = d.names[h.path][n:], d.done[h.path]+n
		return
	}
	n := max(0, m.n-h.node.done)
	for _, c := range h.node.pending[:n] {
		h.node.synced = c.on(h.node.synced)
	}
	h.node.pending, h.node.done = h.node.pending[n:], h.node.done+n
}

func put(names map[string]*inode, e entry) {
	if e.to == nil {
		delete(names, e.name)
	} else {
		names[e.name] = e.to
	}
	delete(names, e.gone)
}

func (d *disk) rename(c call) {
	var paths []string
	for _, a := range c.args {
		if strings.HasPrefix(a, "/") {
			paths = append(paths, a)
		}
	}
	if len(paths) != 2 || !d.mine(paths[0]) || d.live[paths[0]] == nil {
		return
	}
	e := entry{name: paths[1], to: d.live[paths[0]], gone: paths[0]}
	put(d.live, e)
	dir := filepath.Dir(paths[1])
	d.names[dir] = append(d.names[dir], e)
}

// on is b with c done to it.
func (c change) on(b []byte) []byte {
	end := c.off + int64(len(c.data))
	if c.data == nil && int64(len(b)) > c.off {
		return b[:c.off:c.off]
	}
	if grow := end - int64(len(b)); grow > 0 {
		b = append(b, make([]byte, grow)...)
	}
	copy(b[c.off:], c.data)
	return b
}

// rebuild writes to dir what a power cut now would leave.
func (d *disk) rebuild(dir string, draw *rand.Rand) error {
	names := make(map[string]*inode, len(d.durable))
	for path, n := range d.durable {
		names[path] = n
	}
	for _, folder := range sorted(d.names) {
		changes := d.names[folder]
		for _, e := range changes[:draw.IntN(len(changes)+1)] {
			put(names, e)
		}
	}
	for _, path := range sorted(names) { // folders come before what is in them
		to := filepath.Join(dir, strings.TrimPrefix(path, d.root))
		if _, err := os.Stat(filepath.Dir(to)); err != nil {
			continue // its folder's name was not durable
		}
		var err error
		if n := names[path]; n.dir {
			err = os.Mkdir(to, 0o700)
		} else {
			err = os.WriteFile(to, n.after(draw), 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// after is what a power cut leaves of the file.
func (n *inode) after(draw *rand.Rand) []byte {
	b := slices.Clone(n.synced)
	keep := func(int) bool { return false }
	switch draw.IntN(4) {
	case 0: // what was not synced is gone
	case 1: // all of it is there
		keep = func(int) bool { return true }
	case 2: // the first so many
		first := draw.IntN(len(n.pending) + 1)
		keep = func(i int) bool { return i < first }
	case 3: // any
		keep = func(int) bool { return draw.IntN(2) == 0 }
	}
	torn := draw.IntN(2*len(n.pending) + 1)
	for i, c := range n.pending {
		if !keep(i) {
			continue
		}
		if whole := len(c.data) / sector; i == torn && whole > 0 {
			c.data = c.data[:draw.IntN(whole)*sector]
			if len(c.data) == 0 {
				continue
			}
		}
		b = c.on(b)
	}
	return b
}
