package main

import "strings"

// glyphs are letters of five by five dots: the person on site reads the name of
// the machine from across the room, on a screen that has no fonts.
var glyphs = map[rune]string{
	'A': " ### |#   #|#####|#   #|#   #", 'B': "#### |#   #|#### |#   #|#### ",
	'C': " ####|#    |#    |#    | ####", 'D': "#### |#   #|#   #|#   #|#### ",
	'E': "#####|#    |#### |#    |#####", 'F': "#####|#    |#### |#    |#    ",
	'G': " ####|#    |#  ##|#   #| ####", 'H': "#   #|#   #|#####|#   #|#   #",
	'I': "#####|  #  |  #  |  #  |#####", 'J': "#####|   # |   # |#  # | ##  ",
	'K': "#   #|#  # |###  |#  # |#   #", 'L': "#    |#    |#    |#    |#####",
	'M': "#   #|## ##|# # #|#   #|#   #", 'N': "#   #|##  #|# # #|#  ##|#   #",
	'O': " ### |#   #|#   #|#   #| ### ", 'P': "#### |#   #|#### |#    |#    ",
	'Q': " ### |#   #|# # #|#  # | ## #", 'R': "#### |#   #|#### |#  # |#   #",
	'S': " ####|#    | ### |    #|#### ", 'T': "#####|  #  |  #  |  #  |  #  ",
	'U': "#   #|#   #|#   #|#   #| ### ", 'V': "#   #|#   #|#   #| # # |  #  ",
	'W': "#   #|#   #|# # #|## ##|#   #", 'X': "#   #| # # |  #  | # # |#   #",
	'Y': "#   #| # # |  #  |  #  |  #  ", 'Z': "#####|   # |  #  | #   |#####",
	'0': " ### |#  ##|# # #|##  #| ### ", '1': "  #  | ##  |  #  |  #  |#####",
	'2': "#### |    #| ### |#    |#####", '3': "#### |    #| ### |    #|#### ",
	'4': "#  # |#  # |#####|   # |   # ", '5': "#####|#    |#### |    #|#### ",
	'6': " ### |#    |#### |#   #| ### ", '7': "#####|   # |  #  | #   | #   ",
	'8': " ### |#   #| ### |#   #| ### ", '9': " ### |#   #| ####|    #| ### ",
	'-': "     |     | ### |     |     ", '.': "     |     |     |  ## |  ## ",
	'_': "     |     |     |     |#####", ' ': "     |     |     |     |     ",
}

// bigWidth is how many letters fit on a line of a text screen.
const bigWidth = 12

// bigText is a short text in large letters, or the text as it is where it is
// too long or has letters that the font has not.
func bigText(text string) []string {
	var rows [5]strings.Builder
	letters := []rune(strings.ToUpper(text))
	if len(letters) > bigWidth {
		return []string{text}
	}
	for _, r := range letters {
		glyph, ok := glyphs[r]
		if !ok {
			return []string{text}
		}
		for i, dots := range strings.Split(glyph, "|") {
			rows[i].WriteString(dots + " ")
		}
	}
	lines := make([]string, len(rows))
	for i := range rows {
		lines[i] = strings.TrimRight(rows[i].String(), " ")
	}
	return lines
}
