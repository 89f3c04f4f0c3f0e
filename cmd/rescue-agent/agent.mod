module rescuebox

go 1.20
