# Ask the MongoDB of this pod whether it answers: `{ping: 1}` over its wire protocol, and `ok: 1.0` in the reply.
# mongosh would do the same, but each start of it takes 0.5 to 1 s of CPU. `ping` needs no login.
exec 3<>"/dev/tcp/127.0.0.1/$1"
request='\x33\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0'  # 51 bytes, request 1, OP_MSG, one document
request+='\x1e\0\0\0\x10ping\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0'
printf "$request" >&3
reply=$(timeout 4 head -c 37 <&3 | od -An -v -tx1 | tr -d ' \n')
[[ $reply == *016f6b00000000000000f03f ]]
