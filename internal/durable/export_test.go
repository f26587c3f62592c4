package durable

// Fd is the lock's descriptor.
func (l *Lock) Fd() uintptr { return l.f.Fd() }
