package main

func bigText(name string) []string { return []string{name} }
