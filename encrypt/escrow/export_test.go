package escrow

// Cheapen lets e's secrets cost next to nothing, for tests that are not about that.
func Cheapen(e *Escrow) *Escrow {
	e.slow.memory = 64
	return e
}

// Memory is what one argon2id of e takes, in KiB.
func Memory(e *Escrow) uint32 { return e.slow.memory }
