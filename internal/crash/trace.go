package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// traced are the system calls that change files, or say where the next change goes.
const traced = "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,rename,renameat,renameat2," +
	"unlink,unlinkat,link,linkat,symlink,symlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,sync_file_range,close,lseek,dup,dup2,dup3"

// call is one system call that succeeded, in the order in which they ended.
type call struct {
	name string
	args []string // as strace writes them; strings are decoded
	ret  int64
	// thread is whose it was.
	thread string
	// at is when it ended, in microseconds since 1970; when it began where no other thread's call came in between.
	at int64
}

var errTrace = errors.New("trace: strace wrote what is not understood")

// parseTrace reads what strace -f -xx -ttt wrote. A call that was cut by another thread's is put together.
func parseTrace(r io.Reader, f func(call) error) error {
	s := bufio.NewReaderSize(r, 1<<20)
	open := make(map[string]string) // by thread, the beginning of its call
	for {
		line, err := s.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil // a last line without its end was cut by the kill
		}
		if err != nil {
			return err
		}
		pid, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		rest = strings.TrimLeft(rest, " ")
		if head, ok := strings.CutSuffix(rest, " <unfinished ...>"); ok {
			open[pid] = head
			if err := begins(pid, head, f); err != nil {
				return err
			}
			continue
		}
		if at, tail, ok := strings.Cut(rest, " <... "); ok && open[pid] != "" && !strings.Contains(at, " ") {
			_, tail, _ = strings.Cut(tail, " resumed>")
			_, begun, _ := strings.Cut(open[pid], " ")
			rest = at + " " + begun + tail
			delete(open, pid)
		}
		c, ok, err := parseCall(rest)
		if err != nil {
			return err
		}
		c.thread = pid
		if ok {
			if err := f(c); err != nil {
				return err
			}
		}
	}
}

// begins tells of calls whose beginning counts, where another thread's came in between: a number is free for another file
// before close ends, and what is written while fsync is under way need not be synced. The end of such a close tells nothing.
func begins(thread, head string, f func(call) error) error {
	at, s, _ := strings.Cut(head, " ")
	name, rest, _ := strings.Cut(s, "(")
	if name != "close" && name != "fsync" && name != "fdatasync" {
		return nil
	}
	args, err := parseArgs(strings.TrimSuffix(rest, ")"))
	if err != nil {
		return err
	}
	t, err := micros(at)
	if err != nil {
		return err
	}
	return f(call{name: "begin " + name, args: args, thread: thread, at: t})
}

// parseCall takes "TIME NAME(ARGS) = RET..."; false: no call, or one that failed.
func parseCall(s string) (c call, ok bool, err error) {
	at, rest, _ := strings.Cut(s, " ")
	name, rest, called := strings.Cut(rest, "(")
	end := strings.LastIndex(rest, ") ")
	if !called || end < 0 || strings.HasPrefix(rest, "+++") {
		return c, false, nil
	}
	ret, found := strings.CutPrefix(strings.TrimLeft(rest[end+2:], " "), "= ")
	if !found {
		return c, false, errTrace
	}
	if i := strings.IndexAny(ret, " <"); i >= 0 {
		ret = ret[:i]
	}
	t, err1 := micros(at)
	n, err2 := strconv.ParseInt(ret, 10, 64)
	if err1 != nil || err2 != nil {
		if ret == "?" { // it was killed in the call
			return c, false, nil
		}
		return c, false, fmt.Errorf("%w: %.60q", errTrace, s)
	}
	c = call{name: name, ret: n, at: t}
	c.args, err = parseArgs(rest[:end])
	return c, n >= 0, err
}

// micros reads SECONDS.MICROSECONDS.
func micros(at string) (int64, error) {
	return strconv.ParseInt(strings.Replace(at, ".", "", 1), 10, 64)
}

// parseArgs cuts at the commas outside of strings and brackets.
func parseArgs(s string) (out []string, err error) {
	for s != "" {
		s = strings.TrimLeft(s, " ")
		var arg string
		if strings.HasPrefix(s, `"`) {
			end := strings.IndexByte(s[1:], '"')
			if end < 0 {
				return nil, errTrace
			}
			if arg, err = unhex(s[1 : 1+end]); err != nil {
				return nil, err
			}
			if s = s[end+2:]; strings.HasPrefix(s, "...") {
				return nil, fmt.Errorf("%w: a string is not whole", errTrace)
			}
		} else {
			end := strings.IndexByte(s, ',')
			if strings.HasPrefix(s, "[") {
				if end = strings.IndexByte(s, ']'); end >= 0 {
					end++
				}
			}
			if end < 0 {
				end = len(s)
			}
			arg, s = s[:end], s[end:]
		}
		out = append(out, arg)
		s = strings.TrimPrefix(s, ",")
	}
	return out, nil
}

// unhex decodes \x61\x62.
func unhex(s string) (string, error) {
	if len(s)%4 != 0 {
		return "", errTrace
	}
	b := bytes.ReplaceAll([]byte(s), []byte(`\x`), nil)
	n, err := hex.Decode(b, b)
	if err != nil || n != len(s)/4 {
		return "", errTrace
	}
	return string(b[:n]), nil
}
