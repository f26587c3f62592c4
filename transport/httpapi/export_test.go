package httpapi

// What the fuzz targets read foreign bytes with.
var (
	RetryAfter = retryAfter
	Pointed    = pointed
	SafeID     = safeID
)
