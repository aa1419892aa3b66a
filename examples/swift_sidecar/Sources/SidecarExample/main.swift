import ElmMLXSidecar
import Foundation

// swift run sidecar-example /path/to/elm-mlx
guard CommandLine.arguments.count == 2 else {
    print("usage: sidecar-example /path/to/elm-mlx")
    exit(2)
}
let sidecar = Sidecar(executable: URL(fileURLWithPath: CommandLine.arguments[1]))
await sidecar.followMemoryPressure()

_ = try await sidecar.call("model/load", ["chat_template": "zephyr"])  // the demo, which only tells stories
let opened = try await sidecar.call("session/new", ["instructions": "Tell a story of a fox."])
let session = opened["session"]?.text ?? ""
for try await delta in try await sidecar.respond(session: session, to: "How does it begin?") {
    FileHandle.standardOutput.write(Data(delta.text.utf8))  // at once, where print waits for a whole line
}
print()
await sidecar.stop()
