package kms

// SignV4 is signV4 for tests.
var SignV4 = signV4
