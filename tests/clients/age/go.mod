module strongroom.test/age

go 1.26.0

toolchain go1.26.10

tool (
	filippo.io/age/cmd/age-plugin-batchpass
	filippo.io/age/extra/age-plugin-pq
)

require (
	filippo.io/age v1.3.2 // indirect
	filippo.io/hpke v0.4.0 // indirect
	golang.org/x/crypto v0.55.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/term v0.45.0 // indirect
)
