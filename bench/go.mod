// A module of its own, so that rivals never enter the product's dependencies.
module github.com/raftcask/raftcask/bench

go 1.26.0
