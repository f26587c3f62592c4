package canon

// Must is must, for the test that wrong options don't pass in silence.
func Must(v int, err error) int { return must(v, err) }
