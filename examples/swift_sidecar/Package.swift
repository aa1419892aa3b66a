// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "swift_sidecar",
    platforms: [.macOS(.v14)],
    products: [
        .library(name: "ElmMLXSidecar", targets: ["ElmMLXSidecar"]),
        .executable(name: "sidecar-example", targets: ["SidecarExample"]),
    ],
    targets: [
        .target(name: "ElmMLXSidecar"),
        .executableTarget(name: "SidecarExample", dependencies: ["ElmMLXSidecar"]),
    ]
)
