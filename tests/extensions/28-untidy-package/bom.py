x = "no shebang"
