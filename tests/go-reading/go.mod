module paddock/go-reading

go 1.19
