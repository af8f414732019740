package infile

// nonBlock is nothing in a browser, which has no files.
const nonBlock = 0
