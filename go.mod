module github.com/mesh-intercept/intercept

go 1.26.0
