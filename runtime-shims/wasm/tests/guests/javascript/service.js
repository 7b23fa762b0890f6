// Answers with what it was given.
import { getArguments, getEnvironment } from 'wasi:cli/environment@0.2.12';
import { getDirectories } from 'wasi:filesystem/preopens@0.2.12';
import { Fields, OutgoingBody, OutgoingResponse, ResponseOutparam } from 'wasi:http/types@0.2.12';

function lines() {
  const environment = Object.fromEntries(getEnvironment());
  const [dir] = getDirectories().find(([, path]) => path === '/data');
  const file = dir.openAt({ symlinkFollow: true }, 'message', {}, { read: true });
  const [bytes] = file.read(1000n, 0n);
  const message = new TextDecoder().decode(bytes).trim();
  return `arguments ${getArguments().slice(1).join(' ')}\nGREETING ${environment.GREETING}\nfile ${message}\n`;
}

export const incomingHandler = {
  handle(request, out) {
    console.log(`javascript: ${request.pathWithQuery()}`);
    const response = new OutgoingResponse(new Fields());
    const body = response.body();
    ResponseOutparam.set(out, { tag: 'ok', val: response });
    const stream = body.write();
    stream.blockingWriteAndFlush(new TextEncoder().encode(lines()));
    stream[Symbol.dispose]();
    OutgoingBody.finish(body, undefined);
  },
};
