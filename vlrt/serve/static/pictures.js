// Files to pictures that can be sent: as they are, or scaled down where the server would refuse.

const SIDES = [4096, 3072, 2048, 1536, 1024, 768]; // longest sides that are tried in turn
const TEXT = 1 << 20; // bytes of a request that are left for what is not a picture, or an eighth

/**
 * A picture: {name, url, preview, width, height, note}. `url` is a data URL of what is sent;
 * width and height are 0 where the browser cannot show the file, though the server may read it.
 *
 * @param {File} file
 * @param {{bytes: number, pixels: number}} left what the server still takes
 */
export async function readPicture(file, left) {
  if (file.type && !file.type.startsWith("image/")) {
    throw new Error(`${file.name}: not a picture (${file.type}).`);
  }
  if (file.size === 0) throw new Error(`${file.name}: the file is empty.`);
  const bitmap = await createImageBitmap(file).catch(() => null);
  const { width, height } = bitmap ?? { width: 0, height: 0 };
  const preview = URL.createObjectURL(file);
  const picture = { name: file.name, preview, width, height, note: "" };
  try {
    if (encodedSize(file.size) <= left.bytes && width * height <= left.pixels) {
      return { ...picture, url: await dataUrl(file) };
    }
    if (bitmap) {
      const smaller = await scaled(bitmap, left);
      if (smaller) return { ...picture, ...smaller };
    }
  } finally {
    bitmap?.close();
  }
  URL.revokeObjectURL(preview);
  throw new Error(`${file.name}: too large for the server, with what the conversation has already.`);
}

/** What a server with these limits still takes beside pictures that are there. */
export function room(limits, pictures) {
  return {
    bytes: limits.bytes - Math.min(TEXT, limits.bytes / 8) - pictures.reduce((sum, { url }) => sum + url.length, 0),
    pixels: limits.pixels - pictures.reduce((sum, each) => sum + (each.sentPixels ?? each.width * each.height), 0),
  };
}

async function scaled(bitmap, left) {
  const longest = Math.max(bitmap.width, bitmap.height);
  for (const side of SIDES.filter((each) => each <= longest)) {
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round((bitmap.width * side) / longest));
    canvas.height = Math.max(1, Math.round((bitmap.height * side) / longest));
    const pixels = canvas.width * canvas.height;
    if (pixels > left.pixels) continue;
    const context = canvas.getContext("2d");
    context.fillStyle = "white"; // what the server puts behind transparent pictures
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
    if (!blob || encodedSize(blob.size) > left.bytes) continue;
    const note = `sent at ${canvas.width} × ${canvas.height}: the server takes no more`;
    return { url: await dataUrl(blob), note, sentPixels: pixels };
  }
  return null;
}

function encodedSize(bytes) {
  return 4 * Math.ceil(bytes / 3) + 64;
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${blob.name ?? "picture"}: it cannot be read.`));
    reader.readAsDataURL(blob);
  });
}
