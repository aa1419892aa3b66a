import Foundation

/// Chunks of bytes to lines.
struct LineReader {
    private var held = Data()

    /// The lines that end in a chunk, without their newlines.
    mutating func lines(endedBy chunk: Data) -> [Data] {
        held.append(chunk)
        var lines: [Data] = []
        while let end = held.firstIndex(of: UInt8(ascii: "\n")) {
            lines.append(Data(held[held.startIndex..<end]))
            held = Data(held[held.index(after: end)...])
        }
        return lines
    }
}
