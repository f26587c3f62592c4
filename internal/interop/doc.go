// Package interop holds the tests against mail hosts that others wrote. They have the build tag interop and need the
// hosts that ./run starts; the packages that talk to other peers keep their own tests behind the same tag.
package interop
