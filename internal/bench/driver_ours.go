package main

func ours() driver { d := netSMTP(); d.name = "ours"; return d }
