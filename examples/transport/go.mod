module example.com/lmtp

go 1.26.0

require github.com/postseal/postseal v0.0.0

require (
	github.com/emersion/go-message v0.18.2 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/text v0.42.0 // indirect
)

replace github.com/postseal/postseal => ../..
